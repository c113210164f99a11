"""Every architecture of transformers as a tiny random model, through this engine and through the library's own forward."""
