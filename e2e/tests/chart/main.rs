//! The chart: that it renders what is meant, that the API server takes it, and that its rights are those of the design.

mod chart;
mod monitoring;
mod release;
mod render;
mod rights;
