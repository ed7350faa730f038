"""Amazon SageMaker from the command line: ``catdog aws``. Nothing in catdog imports this package."""
