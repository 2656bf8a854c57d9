"""What knows users and reads no text: SASRec and its fitting, neighbours, item-kNN, transition graph, popularity."""
