//! Shows long work: a bar on a terminal, plain lines otherwise.
use indicatif::{ProgressBar, ProgressStyle};
use nova_vm::images::Progress;
use std::io::IsTerminal;
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// How often the spinner moves.
const TICK: Duration = Duration::from_millis(100);

/// What is being done, on stderr.
pub struct Shown {
    bar: Option<ProgressBar>,
    current: Mutex<Option<(String, Instant)>>,
}

impl Shown {
    /// Nothing yet.
    pub fn new() -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::new(100);
            let style = ProgressStyle::with_template("{spinner} {msg} {wide_bar} {percent:>3}%");
            if let Ok(style) = style {
                bar.set_style(style);
            }
            bar.enable_steady_tick(TICK);
            bar
        });
        Self { bar, current: Mutex::default() }
    }

    /// The last step is done.
    pub fn finish(&self) {
        self.end_step();
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }

    fn end_step(&self) {
        let ended = self.current.lock().ok().and_then(|mut current| current.take());
        if let Some((what, began)) = ended {
            self.print(&format!("{what}: {:.1} s", began.elapsed().as_secs_f64()));
        }
    }

    fn print(&self, line: &str) {
        match &self.bar {
            Some(bar) => bar.println(line),
            None => eprintln!("{line}"),
        }
    }
}

impl Progress for Shown {
    fn step(&self, what: &str) {
        self.end_step();
        match &self.bar {
            Some(bar) => {
                bar.set_position(0);
                bar.set_message(what.to_owned());
            }
            None => eprintln!("{what} ..."),
        }
        if let Ok(mut current) = self.current.lock() {
            *current = Some((what.to_owned(), Instant::now()));
        }
    }

    fn percent(&self, percent: f32) {
        if let Some(bar) = &self.bar {
            bar.set_position(percent.clamp(0.0, 100.0) as u64);
        }
    }
}
