//! What one unit holds, and how it moves.

/// Number of holding registers.
const HOLDING: usize = 128;

/// A heated vessel behind a unit identifier.
#[derive(Debug, Clone, PartialEq)]
pub struct Vessel {
    /// °C.
    pub temperature: f64,
    /// Bar.
    pub pressure: f32,
    /// Pieces made so far.
    pub counter: u32,
    pub running: bool,
    /// The first is the setpoint in tenths of a degree.
    pub holding: [u16; HOLDING],
    steps: u32,
}

impl Vessel {
    pub(crate) fn new(index: u8) -> Self {
        let mut holding = [0; HOLDING];
        holding[0] = 215 + 50 * u16::from(index);
        Self {
            temperature: 20.0,
            pressure: 1.0,
            counter: 0,
            running: true,
            holding,
            steps: u32::from(index) * 17,
        }
    }

    /// °C.
    pub fn setpoint(&self) -> f64 {
        f64::from(self.holding[0] as i16) / 10.0
    }

    /// Move on by a tenth of a second: the temperature follows the setpoint with a ripple, the
    /// pressure follows the temperature, and a running machine makes a piece.
    pub(crate) fn step(&mut self) {
        self.steps = self.steps.wrapping_add(1);
        let ripple = (f64::from(self.steps) / 7.0).sin() * 0.3;
        let target = if self.running { self.setpoint() } else { 20.0 };
        self.temperature += (target - self.temperature) * 0.05 + ripple;
        self.pressure = (1.0 + self.temperature / 40.0) as f32;
        self.counter = self.counter.wrapping_add(u32::from(self.running));
    }

    pub fn input(&self) -> [u16; 5] {
        let temperature = (self.temperature * 10.0).round() as i16;
        let (pressure, counter) = (self.pressure.to_bits(), self.counter);
        let high = |wide: u32| (wide >> 16) as u16;
        let low = |wide: u32| wide as u16;
        [
            temperature as u16,
            high(pressure),
            low(pressure),
            high(counter),
            low(counter),
        ]
    }

    pub fn coils(&self) -> [bool; 1] {
        [self.running]
    }

    pub fn discrete_inputs(&self) -> [bool; 1] {
        [(self.temperature - self.setpoint()).abs() > 5.0]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_temperature_follows_the_setpoint() {
        let mut vessel = Vessel::new(0);
        vessel.holding[0] = 800;
        assert!(vessel.discrete_inputs()[0]);
        for _ in 0..500 {
            vessel.step();
        }
        assert!((vessel.temperature - 80.0).abs() < 5.0, "{vessel:?}");
        assert_eq!((vessel.counter, vessel.discrete_inputs()), (500, [false]));
        let input = vessel.input();
        let pressure = f32::from_bits(u32::from(input[1]) << 16 | u32::from(input[2]));
        assert_eq!(pressure, vessel.pressure);
    }
}
