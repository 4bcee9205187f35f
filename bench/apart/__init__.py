"""What it costs that components are apart, what stores bear, and what a VCH feels of another one that floods."""
