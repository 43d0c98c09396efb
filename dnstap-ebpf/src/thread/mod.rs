//! State of a thread that the programs store from one of their runs to the next.

pub(crate) mod locals;
pub(crate) mod once;
pub(crate) mod peers;
pub(crate) mod threads;
