"""The label server under a team: how long a person waits, and that no vote is lost or doubled."""
