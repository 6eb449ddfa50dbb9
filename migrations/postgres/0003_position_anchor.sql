-- By what a topic is known under a reader that goes on when it is deleted and made again: the highest record that a
-- position counts may be of the new topic by then. The anchor is a record of the topic that the position is about. It
-- gives way to a later one only after it was seen in its place when that one had come already.

ALTER TABLE source_position
    ADD COLUMN anchor_offset bigint,
    ADD COLUMN anchor_at_ms  bigint;
