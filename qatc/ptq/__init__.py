"""Post-training methods on a prepared model: what brings weights, ranges and biases into shape before it trains."""
