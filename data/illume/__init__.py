"""ILLUME's bookkeeping over records: items, candidates, critics, the accepted set, the mixture."""
