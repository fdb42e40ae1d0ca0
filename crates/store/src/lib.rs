//! What must survive a crash: sessions, spool, outbox, keys.
