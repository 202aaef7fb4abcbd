"""Whether an answer has the form that the job asks for."""
