"""From a corpus on disk to the documents topic; never imports torch."""
