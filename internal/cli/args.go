package cli

import (
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// noArguments refuses words that aren't flags.
func noArguments(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return fmt.Errorf("%q is too much: `%s` takes flags only; see `%[2]s --help`", args[0], cmd.CommandPath())
	}
	return nil
}

// oneArgument wants exactly one word, what.
func oneArgument(what string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		switch len(args) {
		case 0:
			return fmt.Errorf("%s is missing; write `%s %[1]s`", what, cmd.CommandPath())
		case 1:
			return nil
		}
		return fmt.Errorf("%q is too much; write `%s %s` with one %[3]s", args[1], cmd.CommandPath(), what)
	}
}

// group makes cmd one that only has subcommands: alone it prints its help, and a
// word that names none of them is an error.
func group(cmd *cobra.Command, children ...*cobra.Command) *cobra.Command {
	cmd.AddCommand(children...)
	cmd.Args = func(cmd *cobra.Command, args []string) error {
		if len(args) == 0 {
			return nil
		}
		remedy := fmt.Sprintf("`%s --help` lists them", cmd.CommandPath())
		if like := cmd.SuggestionsFor(args[0]); len(like) > 0 {
			remedy = fmt.Sprintf("did you mean %s?", strings.Join(like, " or "))
		}
		return fmt.Errorf("`%s` has no command %q; %s", cmd.CommandPath(), args[0], remedy)
	}
	cmd.SuggestionsMinimumDistance = 2
	cmd.RunE = func(cmd *cobra.Command, _ []string) error { return cmd.Help() }
	return cmd
}

// flagError says of a wrong flag where the right ones are listed.
func flagError(cmd *cobra.Command, err error) error {
	var invalid *pflag.InvalidValueError
	if errors.As(err, &invalid) {
		return fmt.Errorf("--%s can't be %q; it wants %s", invalid.GetFlag().Name, invalid.GetValue(), wanted(invalid.GetFlag()))
	}
	return fmt.Errorf("%w; `%s --help` lists the flags", err, cmd.CommandPath())
}
