"""Tables on disk: schemas, atomic writes, provenance, parts that outlive a killed job, one writer per output."""
