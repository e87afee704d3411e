"""What is added to the probe of the best prompt where that is better: names of labels, TF-IDF, chains of tags."""
