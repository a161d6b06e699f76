"""Models made of an autoencoder and transport: AE-OT, translation, sharpening, cooperation."""
