"""Where photos come from, and where results go: the one door of every room.

names.py     what names say: photo, archive, junk; patterns and brace sets
listing.py   arguments and lists -> inputs, from any point on
trees.py     a folder, archive or prefix as files under safe names
contents.py  what gives the bytes of one input
folders.py   folders of any size, in one fixed order
archives.py  zip and tar, read in place
members.py   members of archives by their names
lists.py     the entries of a list
web.py       a URL's bytes, bounded in size, time and reach
objects.py   S3, Google Cloud Storage and Azure Blob Storage
addresses.py addresses of objects, and a store's refusals as sentences
stores.py    results that appear whole or not at all
"""

from catdog.sources.contents import Content
from catdog.sources.listing import Cursor, Input, SourceChangedError, content_for, list_inputs

__all__ = ["Content", "Cursor", "Input", "SourceChangedError", "content_for", "list_inputs"]
