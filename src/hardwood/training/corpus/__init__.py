"""What the loss keeps of each target of the corpus: its features, its encodings on demand, its prior, its suspicions.

It knows texts, the encoder and rows. It must not know what a batch draws.
"""
