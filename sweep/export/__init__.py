"""The winner for other programs: adapter, merged model, model card, trainers' files."""
