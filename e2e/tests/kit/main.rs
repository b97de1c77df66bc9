//! The kit tests itself: real servers start, faulty ones do what their faults say, and the small tools work.

mod basics;
mod client;
mod control;
mod faults;
mod honest;
mod real;
