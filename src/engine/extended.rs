//! Floats with a 64-bit mantissa, as C's `long double` is on x86: what Redis counts floats in.
//!
//! Sums come out byte for byte as Redis prints them (`%.17Lf` without trailing zeros), which 53 bits would not give:
//! 10.5 + 0.1 is 10.6 here. Reading and printing are exact (by whole numbers of any length), then rounded once to
//! nearest, ties to even. Denormals keep their whole mantissa: they print as 0 all the same.

use crate::request::Fault;

/// Longest text taken for a number, as in Redis.
const TEXT_BYTES_MAX: usize = 5 * 1024;
/// Digits behind the point that are printed.
const FRACTION_DIGITS: usize = 17;
/// Values from 2 to this power on are infinite.
const EXPONENT_END: i64 = 16384;
/// Values below 2 to this power are not told from 0.
const EXPONENT_START: i64 = -16446;
/// Decimal exponents safely beyond both.
const DECIMAL_EXPONENT_MAX: i64 = 4940;
const DECIMAL_EXPONENT_MIN: i64 = -4960;

/// A finite float: `mantissa` times 2 to the power of `exponent`. The mantissa is 0 or has its highest bit set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Extended {
    negative: bool,
    mantissa: u64,
    exponent: i64,
}

impl Extended {
    /// Reads a decimal: sign, digits with a point, exponent; no spaces. Infinity is one that cannot be counted with;
    /// what is too large, or too small to be told from 0, is none.
    pub(super) fn parse(text: &[u8]) -> Result<Extended, Fault> {
        if text.len() >= TEXT_BYTES_MAX {
            return Err(Fault::NotFloat);
        }
        let (negative, rest) = match text {
            [b'-', rest @ ..] => (true, rest),
            [b'+', rest @ ..] => (false, rest),
            rest => (false, rest),
        };
        if rest.eq_ignore_ascii_case(b"inf") || rest.eq_ignore_ascii_case(b"infinity") {
            return Err(Fault::NotFinite);
        }
        let (digits, exponent) = match memchr::memchr2(b'e', b'E', rest) {
            Some(at) => (&rest[..at], parse_exponent(&rest[at + 1..]).ok_or(Fault::NotFloat)?),
            None => (rest, 0),
        };
        let (whole, fraction) = match memchr::memchr(b'.', digits) {
            Some(at) => (&digits[..at], &digits[at + 1..]),
            None => (digits, &digits[..0]),
        };
        if whole.len() + fraction.len() == 0 {
            return Err(Fault::NotFloat);
        }
        let mut number = Natural::default();
        for byte in whole.iter().chain(fraction) {
            if !byte.is_ascii_digit() {
                return Err(Fault::NotFloat);
            }
            number.multiply_add(10, u32::from(byte - b'0'));
        }
        if number.is_zero() {
            return Ok(Extended { negative, mantissa: 0, exponent: 0 });
        }
        let exponent = exponent - fraction.len() as i64;
        // Digits of the number, within one: log10(2) is a bit more than 0.30102.
        let magnitude = exponent + number.bits() as i64 * 30102 / 100_000;
        if !(DECIMAL_EXPONENT_MIN..=DECIMAL_EXPONENT_MAX).contains(&magnitude) {
            return Err(Fault::NotFloat);
        }
        // Long division of number * 10^exponent, both sides whole, to a quotient of 66 or 67 bits.
        let mut divisor = Natural::from(1);
        let scaled = if exponent < 0 { &mut divisor } else { &mut number };
        for _ in 0..exponent.unsigned_abs() {
            scaled.multiply_add(10, 0);
        }
        let shift = 66 + divisor.bits() as i64 - number.bits() as i64;
        if shift < 0 {
            divisor.shift_left(shift.unsigned_abs() as usize);
        } else {
            number.shift_left(shift as usize);
        }
        let mut quotient: u128 = 0;
        divisor.shift_left(67);
        for _ in 0..68 {
            quotient <<= 1;
            if number.subtract_if_not_less(&divisor) {
                quotient |= 1;
            }
            divisor.shift_right_one();
        }
        match Extended::rounded(negative, quotient, -shift, !number.is_zero()) {
            Ok(parsed) if parsed.exponent + 63 >= EXPONENT_START => Ok(parsed),
            _ => Err(Fault::NotFloat),
        }
    }

    /// The sum, rounded.
    pub(super) fn add(self, other: Extended) -> Result<Extended, Fault> {
        let (large, small) = match (self.mantissa, other.mantissa) {
            (_, 0) => (self, other),
            (0, _) => (other, self),
            _ if (self.exponent, self.mantissa) >= (other.exponent, other.mantissa) => (self, other),
            _ => (other, self),
        };
        if small.mantissa == 0 {
            let negative = large.negative && (large.mantissa != 0 || small.negative);
            return Ok(Extended { negative, ..large });
        }
        // 63 bits below the larger one's lowest keep what rounding has to know of the smaller one.
        let a = u128::from(large.mantissa) << 63;
        let b = u128::from(small.mantissa) << 63;
        let distance = (large.exponent - small.exponent) as u64;
        let (b, lost) = match distance {
            0..=127 => (b >> distance, b & ((1 << distance) - 1) != 0),
            _ => (0, true),
        };
        let sum = match large.negative == small.negative {
            true => a + b,
            // What was lost is subtracted too: the difference lies below, and not at the next whole number.
            false => a - b - u128::from(lost),
        };
        Extended::rounded(large.negative && (sum != 0 || lost), sum, large.exponent - 63, lost)
    }

    /// `number` (and something below it if `inexact`) times 2 to the power of `exponent`, rounded to 64 bits.
    fn rounded(negative: bool, number: u128, exponent: i64, inexact: bool) -> Result<Extended, Fault> {
        if number == 0 {
            return Ok(Extended { negative, mantissa: 0, exponent: 0 });
        }
        let bits = 128 - i64::from(number.leading_zeros());
        if bits <= 64 {
            // The numbers that come here have bits below the mantissa's, or are exact.
            let mantissa = (number as u64) << (64 - bits);
            return Extended { negative, mantissa, exponent: exponent - (64 - bits) }.finite();
        }
        let drop = bits - 64;
        let half = 1u128 << (drop - 1);
        let below = number & ((half << 1) - 1);
        let kept = (number >> drop) as u64;
        let up = below > half || (below == half && (inexact || kept & 1 == 1));
        let (mantissa, exponent) = match kept.checked_add(u64::from(up)) {
            Some(mantissa) => (mantissa, exponent + drop),
            None => (1 << 63, exponent + drop + 1),
        };
        Extended { negative, mantissa, exponent }.finite()
    }

    fn finite(self) -> Result<Extended, Fault> {
        if self.exponent + 64 > EXPONENT_END { Err(Fault::NotFinite) } else { Ok(self) }
    }

    /// Appends the number as Redis prints it: no exponent, no trailing zeros, no `-0`.
    pub(super) fn append_to(&self, out: &mut Vec<u8>) {
        let mut number = Natural::from(self.mantissa);
        for _ in 0..FRACTION_DIGITS {
            number.multiply_add(10, 0);
        }
        match self.exponent {
            0.. => number.shift_left(self.exponent as usize),
            _ => number.shift_right_rounded(self.exponent.unsigned_abs() as usize),
        }
        let mut digits = number.into_decimal();
        while digits.len() <= FRACTION_DIGITS {
            digits.insert(0, b'0');
        }
        let point = digits.len() - FRACTION_DIGITS;
        let fraction =
            FRACTION_DIGITS - digits.iter().rev().take(FRACTION_DIGITS).take_while(|d| **d == b'0').count();
        if self.negative && digits.iter().any(|digit| *digit != b'0') {
            out.push(b'-');
        }
        out.extend_from_slice(&digits[..point]);
        if fraction > 0 {
            out.push(b'.');
            out.extend_from_slice(&digits[point..point + fraction]);
        }
    }
}

fn parse_exponent(text: &[u8]) -> Option<i64> {
    let (negative, digits) = match text {
        [b'-', digits @ ..] => (true, digits),
        [b'+', digits @ ..] => (false, digits),
        digits => (false, digits),
    };
    if digits.is_empty() {
        return None;
    }
    let mut exponent: i64 = 0;
    for byte in digits {
        if !byte.is_ascii_digit() {
            return None;
        }
        // Far beyond both bounds, and far from overflow.
        exponent = (exponent * 10 + i64::from(byte - b'0')).min(1 << 40);
    }
    Some(if negative { -exponent } else { exponent })
}

/// A natural number of any length: limbs of 32 bits, the lowest first, the highest not 0.
#[derive(Clone, Debug, Default)]
struct Natural {
    limbs: Vec<u32>,
}

impl Natural {
    fn from(number: u64) -> Natural {
        let mut natural = Natural { limbs: vec![number as u32, (number >> 32) as u32] };
        natural.trim();
        natural
    }

    fn trim(&mut self) {
        while self.limbs.last() == Some(&0) {
            self.limbs.pop();
        }
    }

    fn is_zero(&self) -> bool {
        self.limbs.is_empty()
    }

    fn bits(&self) -> usize {
        match self.limbs.last() {
            Some(high) => self.limbs.len() * 32 - high.leading_zeros() as usize,
            None => 0,
        }
    }

    fn multiply_add(&mut self, factor: u32, summand: u32) {
        let mut carry = u64::from(summand);
        for limb in &mut self.limbs {
            carry += u64::from(*limb) * u64::from(factor);
            *limb = carry as u32;
            carry >>= 32;
        }
        if carry > 0 {
            self.limbs.push(carry as u32);
        }
    }

    fn shift_left(&mut self, bits: usize) {
        if self.is_zero() {
            return;
        }
        let mut carry = 0;
        if !bits.is_multiple_of(32) {
            for limb in &mut self.limbs {
                let shifted = u64::from(*limb) << (bits % 32) | carry;
                *limb = shifted as u32;
                carry = shifted >> 32;
            }
        }
        if carry > 0 {
            self.limbs.push(carry as u32);
        }
        self.limbs.splice(0..0, std::iter::repeat_n(0, bits / 32));
    }

    fn shift_right_one(&mut self) {
        let mut carry = 0;
        for limb in self.limbs.iter_mut().rev() {
            let low = *limb & 1;
            *limb = *limb >> 1 | carry << 31;
            carry = low;
        }
        self.trim();
    }

    /// Divides by a power of two, to nearest, ties to even.
    fn shift_right_rounded(&mut self, bits: usize) {
        if bits > self.bits() {
            self.limbs.clear();
            return;
        }
        let bit = |at: usize| self.limbs.get(at / 32).is_some_and(|limb| limb >> (at % 32) & 1 == 1);
        let half = bits > 0 && bit(bits - 1);
        let below = (0..bits.saturating_sub(1)).any(bit);
        let up = half && (below || bit(bits));
        self.limbs.drain(..bits / 32);
        for _ in 0..bits % 32 {
            self.shift_right_one();
        }
        self.trim();
        if up {
            self.multiply_add(1, 1);
        }
    }

    /// Subtracts if that does not go below 0; says whether it did.
    fn subtract_if_not_less(&mut self, other: &Natural) -> bool {
        let less = match self.limbs.len().cmp(&other.limbs.len()) {
            std::cmp::Ordering::Equal => self.limbs.iter().rev().lt(other.limbs.iter().rev()),
            order => order.is_lt(),
        };
        if less {
            return false;
        }
        let mut borrow = false;
        for (i, limb) in self.limbs.iter_mut().enumerate() {
            let (part, under) = limb.overflowing_sub(other.limbs.get(i).copied().unwrap_or(0));
            let (part, under_again) = part.overflowing_sub(u32::from(borrow));
            *limb = part;
            borrow = under || under_again;
        }
        self.trim();
        true
    }

    fn into_decimal(mut self) -> Vec<u8> {
        let mut digits = Vec::new();
        while !self.is_zero() {
            let mut rest: u64 = 0;
            for limb in self.limbs.iter_mut().rev() {
                rest = rest << 32 | u64::from(*limb);
                *limb = (rest / 1_000_000_000) as u32;
                rest %= 1_000_000_000;
            }
            self.trim();
            for _ in 0..9 {
                digits.push(b'0' + (rest % 10) as u8);
                rest /= 10;
            }
        }
        while digits.last() == Some(&b'0') {
            digits.pop();
        }
        digits.reverse();
        digits
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sum(a: &str, b: &str) -> String {
        let sum = match (Extended::parse(a.as_bytes()), Extended::parse(b.as_bytes())) {
            (Ok(a), Ok(b)) => a.add(b),
            (Err(why), _) | (_, Err(why)) => Err(why),
        };
        match sum {
            Ok(sum) => {
                let mut text = Vec::new();
                sum.append_to(&mut text);
                String::from_utf8(text).expect("digits are UTF-8")
            }
            Err(Fault::NotFinite) => "not finite".to_string(),
            Err(_) => "not a float".to_string(),
        }
    }

    // A line is a value, an increment and what Redis 8.0.6 on x86-64 made of them.
    const VECTORS: &str = r"0|0.1|0.1
10.5|0.1|10.6
0.1|0.2|0.3
5.0e3|2.0e2|5200
3|1.1|4.1
1000.1|0|1000.09999999999999998
1000.1|0.2|1000.29999999999999999
-1|1|0
-0|0|0
-0|-0|0
0|-0.00000000000000000001|0
1e17|0.5|100000000000000000.5
1e19|1|10000000000000000001
18446744073709551615|1|18446744073709551616
18446744073709551616|1|18446744073709551616
1e30|1|1000000000000000000024696061952
1e100|1|9999999999999999999669353532207342619498699019828496079271391541752018669482644324418977840117055488
1.2e4932|1e4931|not a float
-1e4932|-1e4932|not finite
1e-17|0|0.00000000000000001
5e-18|0|0
15e-18|0|0.00000000000000002
1e-4940|0|0
1e-9999|1|not a float
1e9999|1|not a float
0e99999|1|1
.5|.5|1
5.|1|6
+5|+1|6
|1|not a float
.|1|not a float
e5|1|not a float
1e|1|not a float
1e+|1|not a float
 1|1|not a float
1 |1|not a float
nan|1|not a float
inf|1|not finite
-inf|1|not finite
1|inf|not finite
Infinity|1|not finite
infinit|1|not a float
1.5x|1|not a float
--1|1|not a float
1|abc|not a float
123456789.987654321|0.000000001|123456789.98765432199434144
3.141592653589793238|2.718281828459045235|5.85987448204883847
99999999999999999.99|0.01|100000000000000000
1e15|-0.1|999999999999999.9000244140625
1|-1e-18|1
1|1e-19|1
0.00000000000000000499|0|0
5.90387131131e+22|-9.4198954343277044e+04|59038713113099999907840
496433445277133366.20|543756296844.522766113281250|496433989033430210.71875
5e+01|-86109.381418269797|-86059.38141826979700255
-7.3552e-25|-42138.966451|-42138.96645099999999928
442835596749196356.3047894|-546027833656743657.379240410608|-103192236907547301.0625
6504622.73470|-404021049455298176.0000000000000000000|-404021049448793553.25
-285285676083914522.338522957466|-6.3045351980e+05|-285285676084544975.859375
-409284908126331661.5|266059863908160232.52967109444617|-143225044218171428.96875
-9e+19|9296482.851295|-89999999999990703520
181735355048093720.579359782600|748398056484662784.00000000000000|930133411532756504.5625
-317784504792978089.55|-519270022473609122.83807181673|-837054527266587212.375
-665604043.7793|3.719316619e-06|-665604043.77929628069978207
996726781.80|92360681597805024.0|92360682594531805.796875
-54387923340.7844619750976562500|9.6e+15|9599945612076659.2158203125
-8694151156.641647338867188|-693837104810950722.494151556364450710366|-693837113505101879.125
-94122937594.6970520019531|-9.3690e+13|-93784122937594.697052001953125
204098200204190171.549618203699964|-4.1915099710e-08|204098200204190171.546875
-7.7488e+09|-584670858522227903.503|-584670866271027903.5
-9368905761151728.00000000000000000|601631058968646576.633065181416332521|592262153207494848.625
289691033152118057.9183439124529278217101|-4193333670.378438950|289691028958784387.53125
6683593531.43140316009521484|2.9487388839778499e-03|6683593531.43435189919546247
3435456029441.69628906250000000000|999100103686783206.410139209442526|999103539142812648.125
-672897247016335041.23947998823101452|-308573723730386.75000000000|-673205820740065428
-39308854624489167.646741|190864571044349696.5707806161673381343942|151555716419860528.9375
-4.58587859266780890209e-24|-78096183547082.578125000000000000|-78096183547082.578125
4.36924666790093469899e+05|-875154718856688682.14526|-875154718856251757.4375
-451679258724660.37500|-2.39402299188e+14|-691081557912660.375
56068185.236621|7.11709446e-18|56068185.23662100000001374
-2.52240688139637269e-23|-8.103566722e+09|-8103566722
-4.136163598552271975e-03|-56350379953732711.9931462711926688729|-56350379953732711.99609375
563859094852.5648|-693361986860571282.12205445551738208469|-693361423001476429.5625
-845229467317582848.0000000000|-2.483033920943604755e+02|-845229467317583096.3125
-327859254102056557.6915573287570448|-633307821625616555.97026639286269453266|-961167075727673113.6875
-421075952971685727.44912557501949|133909176061759429.4910399254|-287166776909926297.9375
-70689687152251.8281250000000000000|-95212900154244304.7|-95283589841396556.53125
-5.13056533e+05|130137030574183910.906145728|130137030573670854.375
608037198962116.875000000|7.26963201222624264847e+22|72696320730299625447424
753359977061541346.39412|266157343968420.0625000000|753626134405509766.4375
-9971.610165113555922289|8.331464396059609088000e+18|8331464396059599116.5
-1e+02|4.1636243392926195000000e+15|4163624339292519.5
-4.856055391035e+17|72412219362512431.310|-413193319740987568.6875
796246456786663086.40302178292984|8.213512347780267e-16|796246456786663086.375
-462049855509629.31250000000000000|6.23646081217439219e-21|-462049855509629.3125
889854494073129276.810|9786646764783|889864280719894059.8125
122233304863801263.15|417068518307764329.146693028601506861076|539301823171565592.3125
627403856065384625.206133303489709|6.0411080958217e-21|627403856065384625.1875
1.1e+17|-42889661.16|109999999957110338.84375
-5682.863304402909|-293194205484718.1250000000000000000|-293194205490400.988311767578125
-7.2e-07|-895773681889816.00000000000000000000|-895773681889816
-5.5881875361134527581e-21|6.65215861e-07|0.000000665215861";

    #[test]
    fn sums_are_byte_for_byte_those_of_redis() {
        for line in VECTORS.lines() {
            let [a, b, expected] = line.split('|').collect::<Vec<_>>()[..] else { panic!("{line}") };
            assert_eq!(sum(a, b), expected, "{a} + {b}");
        }
    }

    #[test]
    fn the_largest_values_print_in_full_and_beyond_them_nothing_does() {
        assert_eq!(sum("1e4932", "0").len(), 4933);
        assert_eq!(sum("-1.1e4932", "-1.1e4932"), "not finite");
        assert_eq!(sum(&"9".repeat(5119), "1"), "not a float", "too large");
        assert_eq!(sum(&"0".repeat(5120), "1"), "not a float", "too long");
    }
}
