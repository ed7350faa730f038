"""Answering requests: what a server needs on top of the core, whoever the server is.

    folder of a model -> loading -> Classifier
    body and media type -> requests -> Request -> endpoint -> Reply (status, body, media type)

``inference.py`` hands SageMaker's four functions over to ``endpoint``.
"""
