"""Drawing answers: prompts, local generation, chat servers, stop strings, and the rows that come of it."""
