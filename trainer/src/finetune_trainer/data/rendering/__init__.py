"""From a row's columns to a question and an answer."""
