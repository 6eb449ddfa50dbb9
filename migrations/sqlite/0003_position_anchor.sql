-- By what a topic is known under a reader that goes on when it is deleted and made again: a record of the topic that
-- the position is about, and its time. It gives way to a later one only after it was seen in its place when that one
-- had come already.

ALTER TABLE source_position ADD COLUMN anchor_offset INTEGER;
ALTER TABLE source_position ADD COLUMN anchor_at_ms  INTEGER;
