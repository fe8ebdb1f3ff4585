package restapi

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"
)

// unmarshal reads a request body. Beyond encoding/json it refuses an object that names a member twice, in whatever case:
// the validation would see one value and the handler the other.
func unmarshal(data []byte, v any) error {
	if !utf8.Valid(data) {
		return errors.New("not UTF-8") // encoding/json would put other letters in place of it, in file names too
	}
	if err := json.Unmarshal(data, v); err != nil {
		var syntax *json.SyntaxError
		if errors.As(err, &syntax) {
			line, column := position(data, syntax.Offset)
			return fmt.Errorf("not JSON at line %d, column %d: %w", line, column, err)
		}
		return err
	}
	if _, generic := v.(*any); !generic {
		return nil // huma reads each body twice; once is enough to look
	}
	return noTwins(json.NewDecoder(bytes.NewReader(data)))
}

// position is the line and column, from 1, of the byte that a decoder stopped after.
func position(data []byte, offset int64) (line, column int) {
	before := data[:min(max(offset-1, 0), int64(len(data)))]
	return bytes.Count(before, []byte("\n")) + 1, len(before) - bytes.LastIndexByte(before, '\n')
}

// noTwins reads the next value, which is known to be well formed.
func noTwins(dec *json.Decoder) error {
	token, err := dec.Token()
	if err != nil {
		return err
	}
	delim, ok := token.(json.Delim)
	if !ok {
		return nil
	}
	seen := map[string]bool{}
	for dec.More() {
		if delim == '{' {
			name, err := dec.Token()
			if err != nil {
				return err
			}
			key := strings.ToLower(fmt.Sprint(name))
			if seen[key] {
				return fmt.Errorf("member %q is there twice", name)
			}
			seen[key] = true
		}
		if err := noTwins(dec); err != nil {
			return err
		}
	}
	_, err = dec.Token()
	return err
}
