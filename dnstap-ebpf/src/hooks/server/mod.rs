//! What the server itself knows: functions of its own, one file each. The agent finds them in the running process and attaches to it alone.
//!
//! A program here is of the type `uprobe`. The kernel runs it in the thread that calls the function, before the first instruction of the
//! function that it can step over by itself. The arguments are still where the call has put them.

mod dns_dt_send;
