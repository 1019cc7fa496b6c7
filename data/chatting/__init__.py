"""Talking to OpenAI-compatible servers: requests, the line they go over, replies that are kept."""
