"""Reading tables: CSV, JSONL, Parquet, data frames and datasets of the Hugging Face Hub."""
