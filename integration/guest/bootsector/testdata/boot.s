# The boot sector: counts, in a register and in RAM at 0x9000, and at every 512th step prints
# T and the count in eight hexadecimal digits on the first serial port. When RAM does not hold
# what the register says it prints X and what RAM holds, repairs it and goes on.
# Assembled with: as --32 boot.s -o boot.o && objdump -d -Mi8086 boot.o (see ../program.go)
.code16
.globl _start
_start:
	cli
	xorw %ax, %ax
	movw %ax, %ds
	movw %ax, %ss
	movw $0x7c00, %sp
	xorl %ecx, %ecx
	movl %ecx, 0x9000
step:
	movb $'X', %al
	movl 0x9000, %ebx
	cmpl %ecx, %ebx
	jne say
	incl %ecx
	movl %ecx, 0x9000
	testl $0x1ff, %ecx
	jnz step
	movb $'T', %al
	movl %ecx, %ebx
say:	# the letter in al, the number in ebx
	movl %ecx, 0x9000
	call put
	movw $8, %si
digit:
	roll $4, %ebx
	movb %bl, %al
	andb $15, %al
	addb $'0', %al
	cmpb $'9', %al
	jbe decimal
	addb $7, %al
decimal:
	call put
	decw %si
	jnz digit
	movb $'\n', %al
	call put
	jmp step
put:	# the byte in al, when the port can take it
	movb %al, %ah
	movw $0x3fd, %dx
full:
	inb %dx, %al
	testb $0x20, %al
	jz full
	movw $0x3f8, %dx
	movb %ah, %al
	outb %al, %dx
	ret
