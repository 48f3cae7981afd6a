//! On what is measured, and whether anything else is going on there.

use serde::Serialize;

/// Above so many processes that want to run, on the average of a minute, others disturb what is measured.
const IDLE: f64 = 0.5;

#[derive(Serialize)]
pub(crate) struct Machine {
    pub(crate) processor: String,
    pub(crate) cores: usize,
    pub(crate) kernel: String,
    /// How many wanted to run when it began, on the average of 1, 5 and 15 minutes.
    pub(crate) load: [f64; 3],
    pub(crate) idle: bool,
    pub(crate) optimized: bool,
}

impl Machine {
    pub(crate) fn look() -> Self {
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let numbers: Vec<f64> = read("/proc/loadavg").split(' ').take(3).filter_map(|word| word.parse().ok()).collect();
        let load: [f64; 3] = numbers.try_into().unwrap_or([f64::NAN; 3]);
        let kernel = nix::sys::utsname::uname()
            .map(|names| format!("{} {}", names.sysname().to_string_lossy(), names.release().to_string_lossy()));
        Self {
            processor: processor(&read("/proc/cpuinfo")),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            kernel: kernel.unwrap_or("unknown".into()),
            // Not known is not idle.
            idle: load[0] < IDLE,
            load,
            optimized: !cfg!(debug_assertions),
        }
    }

    /// What the reader of the figures has to know.
    pub(crate) fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        if !self.idle {
            let load = self.load[0];
            warnings.push(format!(
                "the machine was not idle when this began (load average {load:.2}): figures may be others'"
            ));
        }
        if !self.optimized {
            warnings.push("hostlock was built without --release: its own figures mean nothing".into());
        }
        warnings
    }
}

/// What the processor calls itself; on some machines it does not.
fn processor(cpuinfo: &str) -> String {
    let name = |key: &str| {
        let value = cpuinfo.lines().find_map(|line| line.strip_prefix(key)?.trim_start().strip_prefix(':'));
        value.map(str::trim).filter(|value| !value.is_empty()).map(String::from)
    };
    ["model name", "Model", "cpu model"].into_iter().find_map(name).unwrap_or(std::env::consts::ARCH.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_processor_has_a_name_everywhere() {
        assert_eq!(processor("processor\t: 0\nmodel name\t: AMD EPYC\nmodel name\t: other\n"), "AMD EPYC");
        assert_eq!(processor("processor\t: 0\nmodel name\t: \nModel\t\t: Raspberry Pi 4\n"), "Raspberry Pi 4");
        assert_eq!(processor(""), std::env::consts::ARCH);
    }

    #[test]
    fn who_is_not_known_to_be_idle_is_not() {
        let mut machine = Machine { idle: false, optimized: true, load: [2.0, 1.0, 0.5], ..Machine::look() };
        assert!(machine.warnings()[0].contains("not idle when this began (load average 2.00)"));
        (machine.idle, machine.optimized) = (true, true);
        assert_eq!(machine.warnings(), [""; 0]);
    }
}
