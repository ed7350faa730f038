"""Answers from models on SageMaker: from a running endpoint, or from a batch transform job."""
