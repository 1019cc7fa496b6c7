"""Find candidates for questions in a corpus of passages: by words or by vectors, exactly or through an index."""
