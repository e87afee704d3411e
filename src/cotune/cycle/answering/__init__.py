"""Answering of rows under a prompt, and the evaluation of answers, by kind of output."""
