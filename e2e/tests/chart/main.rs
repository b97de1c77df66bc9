//! The chart renders the intended objects, the API server accepts them, and their rights match the design.

mod chart;
mod definition;
mod monitoring;
mod pods;
mod programs;
mod refused;
mod release;
mod render;
mod rights;
mod settings;
