"""RADIO on models: rationales, encoders, scores, the reranker and its measures."""
