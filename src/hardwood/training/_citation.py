"""What to cite, for the model cards that sentence-transformers writes."""

CITATION = """
@inproceedings{monath2023improving,
    title = "Improving Dual-Encoder Training through Dynamic Indexes for Negative Mining",
    author = "Monath, Nicholas and Zaheer, Manzil and Allen, Kelsey and McCallum, Andrew",
    booktitle = "Proceedings of the 26th International Conference on Artificial Intelligence and Statistics",
    series = "Proceedings of Machine Learning Research",
    volume = "206",
    pages = "9308--9330",
    year = "2023",
    url = "https://arxiv.org/abs/2303.15311",
}
"""
