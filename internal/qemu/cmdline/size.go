package cmdline

import (
	"errors"
	"math"
	"math/big"
	"strings"
)

var errSize = errors.New("it is no size such as 512, 4G or 1.5G")

// parseSize reads a size as QEMU does: decimal, with a fraction if it has a suffix, or hexadecimal; unit is the
// factor where no suffix stands.
func parseSize(s string, unit uint64) (uint64, error) {
	if hex, ok := strings.CutPrefix(strings.ToLower(s), "0x"); ok {
		n, ok := new(big.Int).SetString(hex, 16)
		if !ok || strings.HasPrefix(hex, "-") || strings.HasPrefix(hex, "+") {
			return 0, errSize
		}
		return toBytes(new(big.Rat).SetInt(n), unit)
	}
	digits := strings.TrimRight(s, "bBkKmMgGtTpPeE")
	suffix := s[len(digits):]
	if len(suffix) > 1 || digits == "" || strings.Trim(digits, "0123456789.") != "" || strings.Count(digits, ".") > 1 || len(digits) > 40 {
		return 0, errSize
	}
	n, ok := new(big.Rat).SetString(digits)
	if !ok {
		return 0, errSize
	}
	if suffix != "" {
		unit = 1 << (10 * strings.Index("bkmgtpe", strings.ToLower(suffix)))
	} else if strings.Contains(digits, ".") {
		return 0, errSize
	}
	return toBytes(n, unit)
}

func toBytes(n *big.Rat, unit uint64) (uint64, error) {
	n.Mul(n, new(big.Rat).SetInt(new(big.Int).SetUint64(unit)))
	whole := new(big.Int).Quo(n.Num(), n.Denom())
	if !whole.IsUint64() || whole.Uint64() > math.MaxInt64 {
		return 0, errSize
	}
	return whole.Uint64(), nil
}
