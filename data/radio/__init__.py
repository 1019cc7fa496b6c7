"""RADIO's collection over records: passages, pools, rationales, fusion, groups, pairs."""
