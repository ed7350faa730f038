"""Amazon SageMaker from the command line: ``python -m catdog.aws``. Nothing in catdog imports this package."""
