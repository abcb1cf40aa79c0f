"""Images and masks: readers, splits by case, normalisation, manifest. Nothing here imports torch."""
