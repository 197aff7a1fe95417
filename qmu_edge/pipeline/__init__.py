"""From a checkpoint and open requests to a judged release and its receipts."""
