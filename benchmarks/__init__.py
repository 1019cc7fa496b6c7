"""What the project claims about speed and memory, each as a command that measures it again."""
