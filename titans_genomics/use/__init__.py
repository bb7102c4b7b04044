"""What a trained model is for: it scores variants, reads genomes, embeds, generates, draws tracks, and remembers."""
