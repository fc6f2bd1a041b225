"""The commands of `sweep`: words in, words out."""
