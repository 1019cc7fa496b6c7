"""What a recipe will cost: memory by part, steps, tokens and time, before anything heavy is loaded."""
