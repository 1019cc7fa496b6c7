"""What `heliograph plan` predicts beside what a stage then takes."""
