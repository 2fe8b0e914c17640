"""The cards in ``model_cards/``: one for each family of networks, and one for each set of weights that ships."""
