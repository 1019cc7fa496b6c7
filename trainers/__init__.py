"""Everything that needs torch; `config` and `trl_fields` are the torch-free names other layers may import."""
