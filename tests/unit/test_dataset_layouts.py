"""What the names in a source mean: labels and given splits from paths alone."""

from __future__ import annotations

import pytest

from catdog.dataset.layouts import Layout, parse_species, understand
from catdog.errors import DataError


def labels(layout: Layout) -> list[tuple[str, str | None]]:
    return [(item.name, item.label) for item in layout.items]


@pytest.mark.parametrize("wrapper", ["", "PetImages/", "training_set/", "a/b/c/"])
@pytest.mark.parametrize(("cats", "dogs"), [("cat", "dog"), ("Cats", "DOGS"), ("CAT", "dogs")])
def test_class_folders_at_any_depth_and_case(wrapper: str, cats: str, dogs: str) -> None:
    names = [f"{wrapper}{cats}/1.jpg", f"{wrapper}{dogs}/deeper/2.jpg"]
    layout = understand(names, "photos")
    assert layout.kind == "class folders"
    assert labels(layout) == [(names[0], "cat"), (names[1], "dog")]
    assert {item.split for item in layout.items} == {None}


def test_two_split_names_are_a_given_split() -> None:
    names = ["x/train/cats/1.jpg", "x/Validation/dogs/2.jpg", "x/test/cats/3.jpg", "x/cats/4.jpg"]
    assert [item.split for item in understand(names, "x").items] == ["train", "val", "test", None]


def test_one_split_name_alone_is_a_training_half_and_no_split() -> None:
    layout = understand(["train/cats/1.jpg", "train/dogs/2.jpg", "test1/1.jpg"], "x")
    assert [item.split for item in layout.items] == [None, None, None]
    assert layout.items[2].label is None


def test_kaggle_names() -> None:
    layout = understand(["train/cat.0.jpg", "train/dog.12.jpg", "test1/7.jpg", "sampleSubmission.csv"], "x")
    assert layout.kind == "Kaggle names"
    assert labels(layout) == [("train/cat.0.jpg", "cat"), ("train/dog.12.jpg", "dog"), ("test1/7.jpg", None)]


def test_other_classes_have_no_label_and_other_files_no_line() -> None:
    layout = understand(["cats/1.jpg", "birds/2.jpg", "README.txt", "cats/notes.txt"], "x")
    assert labels(layout) == [("cats/1.jpg", "cat"), ("birds/2.jpg", None), ("cats/notes.txt", "cat")]


def test_what_shows_neither_has_a_folder_of_its_own() -> None:
    layout = understand(["cats/1.jpg", "Neither/toaster.jpg", "neither/cats/2.jpg"], "x")
    assert labels(layout) == [("cats/1.jpg", "cat"), ("Neither/toaster.jpg", "neither"), ("neither/cats/2.jpg", "cat")]
    assert labels(understand(["1.jpg"], "neither")) == [("1.jpg", "neither")]


def test_a_folder_of_cats_alone_is_named_by_itself() -> None:
    assert labels(understand(["1.jpg", "2.jpg"], "Cats")) == [("1.jpg", "cat"), ("2.jpg", "cat")]


def test_oxford_species_and_its_rule_for_photos_that_the_list_lacks() -> None:
    species = parse_species("#Image CLASS-ID SPECIES\nAbyssinian_1 1 1 1\nbeagle_2 5 2 1\n", "x")
    names = ["images/Abyssinian_1.jpg", "images/beagle_2.jpg", "images/Egyptian_Mau_9.jpg", "images/pug_3.jpg"]
    layout = understand([*names, "images/Abyssinian_100.mat", "annotations/xmls/pug_3.xml"], "x", species)
    assert layout.kind == "Oxford-IIIT Pet"
    assert labels(layout) == list(zip(names, ["cat", "dog", "cat", "dog"], strict=True))


def test_a_bad_species_line_is_named() -> None:
    with pytest.raises(DataError, match="line 2 of annotations/list"):
        parse_species("Abyssinian_1 1 1 1\nAbyssinian_2 1 3 1\n", "x")


@pytest.mark.parametrize(
    ("names", "says"),
    [
        ([], "holds no files"),
        (["a/1.jpg", "b/2.jpg", "notes.txt"], "3 files, 2 of them photos: a/, b/, notes.txt"),
        (["category.1.jpg", "dogma/1.jpg"], "category.1.jpg"),
        (["images/Abyssinian_1.jpg"], "annotations.tar.gz is missing"),
    ],
)
def test_what_fits_no_layout_is_described(names: list[str], says: str) -> None:
    with pytest.raises(DataError, match=r"class folders .*Kaggle.*Oxford") as caught:
        understand(names, "mine")
    assert says in str(caught.value)
    assert str(caught.value).startswith("mine: ")
