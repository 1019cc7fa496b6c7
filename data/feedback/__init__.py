"""Feedback from people: what to ask whom next, their votes kept safe, how far they agree, and what follows."""
