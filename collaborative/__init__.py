"""What knows users but no text: SASRec and its fitting, neighbours, item-kNN, popularity."""
