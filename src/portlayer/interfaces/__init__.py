"""The same four names as Protocols, with the substrate's drivers and the store. Vocabulary: DESIGN's Words."""
